"""A contract of import-linter that it does not have: modules whose names begin with `_` are private to their package."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


class PrivateModules(Contract):
    """No import of a private module of another package below the root.

    `hf_meta_adapters/hub/_card.py` belongs to `hub`: `hf_meta_adapters/modeling` must not import it. A module that
    others may import has no underscore. Modules of the root, such as `_typing`, belong to all.
    """

    type_name = "private_modules"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Collect the imports that break the rule."""
        (root,) = self.session_options["root_packages"]
        own = [name for name in graph.modules if name == root or name.startswith(f"{root}.")]
        wrong = sorted(
            (importer, imported)
            for importer in own
            for imported in graph.find_modules_directly_imported_by(importer)
            if is_private(imported, root) and package_of(importer) != package_of(imported)
        )
        return ContractCheck(kept=not wrong, metadata={"wrong": wrong})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each of them."""
        for importer, imported in check.metadata["wrong"]:
            output.print_error(f"{importer} imports the private {imported}")


def package_of(module: str) -> str:
    """The package below the root that a module is in; the root itself is none."""
    return ".".join(module.split(".")[:2])


def is_private(module: str, root: str) -> bool:
    """Whether a name of the path below the first package begins with an underscore."""
    return module.startswith(f"{root}.") and any(
        part.startswith("_") for part in module.split(".")[2:]
    )

"""A contract that import-linter lacks: modules with a leading `_` are private to their package."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


class PrivateModules(Contract):
    """No module imports a private module of another package below the root.

    `hf_meta_adapters/hub/_card.py` belongs to `hub`, so `hf_meta_adapters/modeling` must not import
    it. A module that other packages may import has no underscore. Modules of the root, such as
    `_typing`, belong to all.
    """

    type_name = "private_modules"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Collect the imports that break the rule."""
        (root,) = self.session_options["root_packages"]
        importers = [name for name in graph.modules if is_inside(name, root)]

        violations = []
        for importer in importers:
            for imported in graph.find_modules_directly_imported_by(importer):
                foreign = package_of(importer) != package_of(imported)
                if foreign and is_private(imported, root):
                    violations.append((importer, imported))

        return ContractCheck(kept=not violations, metadata={"violations": sorted(violations)})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each of them."""
        for importer, imported in check.metadata["violations"]:
            output.print_error(f"{importer} imports the private {imported}")


def is_inside(module: str, root: str) -> bool:
    """Whether a module is the root or below it."""
    return module == root or module.startswith(f"{root}.")


def package_of(module: str) -> str:
    """The package below the root that a module is in."""
    return ".".join(module.split(".")[:2])


def is_private(module: str, root: str) -> bool:
    """Whether a name on the path below the first package begins with an underscore."""
    inner = module.split(".")[2:]
    return is_inside(module, root) and any(name.startswith("_") for name in inner)

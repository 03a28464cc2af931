"""PEFT: one PEFT adapter for each language, and θ as an adapter."""

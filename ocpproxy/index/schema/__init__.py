"""The tables of the index, by numbered steps; `upgrade` applies them."""

"""The explorers of the notebooks, one module a room: what there is to choose from, and what is drawn for a choice."""

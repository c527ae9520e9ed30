"""The manga-shop demo data: sentence families, splits, data sets, and what trains on them."""

"""The dataset contract, the catalogue of loaders, partitions, preprocessing."""

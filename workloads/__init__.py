"""The computations of a trial: data, models, training, sparsity, calibration. This package knows neither Ray nor Parquet."""

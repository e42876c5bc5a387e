"""What a trial computes: data, models, training, sparsity, calibration. Knows neither Ray nor Parquet."""

"""What a run leaves and how it is read: Parquet schemas, statistics, figures, one HTML page."""

"""The files of results and how they are read: Parquet schemas, statistics, figures, one HTML page."""

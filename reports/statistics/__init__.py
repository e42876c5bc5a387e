"""Statistics of populations: functions that take arrays and return arrays, and know neither files nor charts."""

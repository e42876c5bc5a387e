"""The figures of the page, one file per figure. Each draws what a study has data for."""

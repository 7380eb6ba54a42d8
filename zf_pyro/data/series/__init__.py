"""Series from tables and arrays: named features, times, covariates and gaps, in prepared data sets."""

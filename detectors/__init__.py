"""What is computed: statistics, drift, outliers. Numpy, scipy and datasketches; no Spark, no Kafka, no files."""

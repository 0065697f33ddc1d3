"""What happens per message and per window: the only Spark, the only Kafka."""

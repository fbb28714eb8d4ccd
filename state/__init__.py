"""Customer summaries, deadlines and the stores that keep them; knows no Kafka."""

"""The live side: Debezium events from Kafka become wide rows in PostgreSQL."""

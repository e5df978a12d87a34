"""What a wide row is: shared by the live side (`cdc_consumer`) and the history side (`backfill`)."""

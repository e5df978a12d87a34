-- insert --
INSERT INTO dead_cell (pipeline, topic, topic_id, partition, kafka_offset, ship_id, channel_id, created_time,
                       reason, detail, headers, raw_key, raw_value)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING

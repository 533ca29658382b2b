"""The way to the servers: addresses, pools, pipelines, a cluster, subscriptions. Nothing here knows a record."""

"""Connections to the store's servers: addresses, pools, pipelines, clusters, subscriptions. It knows no records."""

"""Connections to the store: addresses, pools, pipelines, clusters, subscriptions; nothing here knows a record."""

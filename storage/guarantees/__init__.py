"""What is promised about data that was acked: durability levels, the epoch, fences, replay after a restart."""

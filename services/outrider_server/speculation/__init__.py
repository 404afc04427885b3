"""The decode loop and its words: standard library only, knowing neither gRPC nor torch."""

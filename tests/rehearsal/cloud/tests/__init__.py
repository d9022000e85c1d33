"""Tests of the cloud itself, without machines: neither root nor a running cloud is needed."""

"""The EC2 API: moto with an extension of ours, and no knowledge of how its machines are made."""

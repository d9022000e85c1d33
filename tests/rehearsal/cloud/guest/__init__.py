"""The machines behind the API: booted guests and light hosts."""

#!/bin/sh
# Stand-in for gdrcopy_sanity.
echo "Total: 28, Passed: 28, Failed: 0, Waived: 0"

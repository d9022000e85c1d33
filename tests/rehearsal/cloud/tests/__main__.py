"""Runs the tests of the cloud's API, by boto3 over HTTP, and of calls.py. Its guests are made of nothing.

python -m cloud.tests          in tests/rehearsal, with the packages of requirements.txt installed
"""

import sys
import unittest
from pathlib import Path

folder = Path(__file__).parent
suite = unittest.defaultTestLoader.discover(str(folder), top_level_dir=str(folder.parents[1]))
sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())

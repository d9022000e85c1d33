"""Tests the EC2 API of the rehearsal cloud by boto3 over HTTP. Needs no root: its guests are made of nothing.

python test_ec2.py          with moto[ec2,ssm], flask, flask-cors and boto3 installed
"""

import unittest

import ec2_tests_addresses
import ec2_tests_builds
import ec2_tests_capacity
import ec2_tests_catalogue
import ec2_tests_hosts
import ec2_tests_images
import ec2_tests_launches
import ec2_tests_lives


def load_tests(loader, *_):
    modules = (
        ec2_tests_addresses, ec2_tests_builds, ec2_tests_capacity, ec2_tests_catalogue, ec2_tests_hosts,
        ec2_tests_images, ec2_tests_launches, ec2_tests_lives,
    )
    return unittest.TestSuite(loader.loadTestsFromModule(module) for module in modules)


if __name__ == "__main__":
    unittest.main()

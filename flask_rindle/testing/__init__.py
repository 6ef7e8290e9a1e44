"""What tests of apps and of adapters need. Only `contracts` knows pytest."""

"""What to serve a load with: settings and replicas, searched in simulation."""

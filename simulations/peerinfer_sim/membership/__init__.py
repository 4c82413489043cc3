"""Many membership machines over a network of datagrams and connections: traffic, detection, false alarms."""

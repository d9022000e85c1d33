
  # This guest's cloud-init may not know IMDSv2; if it were required, it would never read the login key.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "optional"
    http_put_response_hop_limit = 1
  }

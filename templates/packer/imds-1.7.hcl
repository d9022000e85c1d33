
  # The guest's cloud-init knows IMDSv2, so nothing else is answered: on the builder and on the image's instances.
  imds_support = "v2.0"
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

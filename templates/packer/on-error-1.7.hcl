  error-cleanup-provisioner "file" {
    direction   = "download"
    source      = "/var/log/efa-gen/install.log"
    destination = "efa-gen-install.log"
  }



  temporary_security_group_source_public_ip = length(var.ssh_cidrs) == 0

  deprecate_at = var.deprecate_at

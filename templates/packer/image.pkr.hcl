# <~ title | safe ~>
#
# Made by efa-gen <~ version ~> from plan <~ digest ~>.
# Needs install.sh of the same plan beside it: its SHA-256 is checked on the builder.
#
<%- for line in how_to %>
#   <~ line | safe ~>
<%- endfor %>

packer {
  required_version = "<~ required_version ~>"
}

variable "region" {
  type        = string
  description = "Region to build in."
  default     = "us-east-1"

  validation {
    condition     = regex_replace(var.region, "^[a-z]+(-[a-z]+)+-[0-9]+$", "") == ""
    error_message = "The region must look like us-east-1."
  }
}

variable "builder_type" {
  type        = string
  description = "Instance type of the builder. It needs no GPU and no EFA; cores make the build of NCCL faster."
  default     = "c5.4xlarge"
}

variable "ssh_cidrs" {
  type        = list(string)
  description = "<~ ssh_cidrs.description ~>"
<%- for value in ssh_cidrs.default %>
  default     = <~ value | safe ~>
<%- endfor %>

  validation {
    condition     = <~ ssh_cidrs.needed ~>length([for cidr in var.ssh_cidrs : cidr if regex_replace(cidr, "/0*[0-7]$", "") != cidr]) == 0
    error_message = "Name who may connect, in ranges of /8 or smaller: never the whole Internet."
  }
}

variable "ssh_interface" {
  type        = string
  description = "How Packer reaches the builder: public_ip, private_ip, public_dns, private_dns or session_manager."
  default     = "public_ip"

  validation {
    condition     = contains(["public_ip", "private_ip", "public_dns", "private_dns", "session_manager"], var.ssh_interface)
    error_message = "The interface must be public_ip, private_ip, public_dns, private_dns or session_manager."
  }
}

variable "iam_instance_profile" {
  type        = string
  description = "Instance profile of the builder; session_manager needs one."
  default     = ""
}

variable "subnet_id" {
  type        = string
  description = "Subnet of the builder; empty for one of the default VPC."
  default     = ""

  validation {
    condition     = regex_replace(var.subnet_id, "^subnet-[0-9a-f]+$", "") == ""
    error_message = "The subnet must look like subnet-0123456789abcdef0."
  }
}

variable "source_ami" {
  type        = string
  description = "Id of the AMI to start from; empty for the newest that the filter finds.<~ source_ami_note ~>"
  default     = ""
}

variable "spot_price" {
  type        = string
  description = "Highest hourly price for a spot builder in dollars, auto for the on-demand price, empty for on-demand."
  default     = ""

  validation {
    condition     = regex_replace(var.spot_price, "^(auto|[0-9]+([.][0-9]+)?)$", "") == ""
    error_message = "The price must be empty, auto or a number."
  }
}

variable "root_gib" {
  type        = number
  description = "Size of the root volume in GiB."
  default     = <~ root_gib ~>

  validation {
    condition     = var.root_gib >= <~ root_gib ~>
    error_message = "The root volume must have <~ root_gib ~> GiB or more."
  }
}

variable "encrypt" {
  type        = bool
  description = "Whether the image's snapshots are encrypted. To share encrypted images, give a key of your own."
  default     = true
}

variable "kms_key_id" {
  type        = string
  description = "KMS key for the snapshots; empty for the account's own EBS key."
  default     = ""
}

variable "copy_regions" {
  type        = list(string)
  description = "Regions to copy the image to."
  default     = []
}

variable "region_kms_keys" {
  type        = map(string)
  description = "KMS key for each region that the image is copied to; needed when kms_key_id is given."
  default     = {}
}

variable "share_accounts" {
  type        = list(string)
  description = "Accounts that may launch the image."
  default     = []

  validation {
    condition     = length([for account in var.share_accounts : account if regex_replace("x${account}", "^x[0-9]{12}$", "") != ""]) == 0
    error_message = "An account is twelve digits."
  }
}

variable "ami_name" {
  type        = string
  description = "Name of the image; empty for one made of distribution, stack, plan and time."
  default     = ""
}

variable "more_tags" {
  type        = map(string)
  description = "Tags of yours on everything that can have tags."
  default     = {}
}

variable "run" {
  type        = string
  description = "Name of this run for the tag efa-gen:run, by which `efa-gen sweep` finds what a dead run left; empty for no tag."
  default     = ""

  validation {
    condition     = regex_replace(var.run, "^[0-9A-Za-z][0-9A-Za-z._-]*$", "") == ""
    error_message = "A run's name has letters, digits, dots, hyphens and underscores."
  }
}

variable "user_data_file" {
  type        = string
  description = "File of user-data for the builder; empty for none. A builder that shuts itself down is terminated."
  default     = ""
}

<~ more_variables | safe ~>locals {
  stamp    = formatdate("YYYYMMDD-hhmmss", timestamp())
  ami_name = var.ami_name != "" ? var.ami_name : "<~ ami_name ~>-${local.stamp}"
  plan_tags = {
<%- for tag in tags %>
    <~ tag.key | safe ~> = <~ tag.value | safe ~>
<%- endfor %>
  }
  tags = merge(local.plan_tags, var.more_tags, { for key, run in { "efa-gen:run" = var.run } : key => run if run != "" })
}

source "amazon-ebs" "image" {
  region               = var.region
  subnet_id            = var.subnet_id
  instance_type        = var.builder_type
  spot_price           = var.spot_price
  iam_instance_profile = var.iam_instance_profile
  user_data_file       = var.user_data_file

  # A builder that is shut down from within does not stay around as a stopped one.
  shutdown_behavior = "terminate"

  ssh_username                          = "<~ base.user ~>"
  ssh_interface                         = var.ssh_interface
  ssh_timeout                           = "15m"
  ssh_pty                               = <~ base.sudo_needs_tty ~>
  temporary_security_group_source_cidrs = var.ssh_cidrs
<~ more_source | safe ~>
  source_ami = var.source_ami
  source_ami_filter {
    filters = var.source_ami != "" ? {} : {
      name                = "<~ base.name ~>"
      architecture        = "<~ base.architecture ~>"
      root-device-type    = "ebs"
      state               = "available"
      virtualization-type = "hvm"
    }
    owners      = var.source_ami != "" ? [] : [<~ owners | safe ~>]
    most_recent = true
<~ more_filter | safe ~>  }

  launch_block_device_mappings {
    device_name           = "<~ base.root_device ~>"
    volume_size           = var.root_gib
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125
    delete_on_termination = true
  }

  ami_name           = local.ami_name
  ami_description    = "<~ description ~>"
  ami_regions        = var.copy_regions
  ami_users          = var.share_accounts
  encrypt_boot       = var.encrypt
  kms_key_id         = var.kms_key_id
  region_kms_key_ids = var.region_kms_keys
  run_tags           = merge(local.tags, { "Name" = local.ami_name })
  run_volume_tags    = local.tags
  snapshot_tags      = local.tags
  tags               = merge(local.tags, { "Name" = local.ami_name, "efa-gen:base-ami" = "{{ .SourceAMI }}", "efa-gen:base-name" = "{{ .SourceAMIName }}" })

  # Long snapshots: up to two hours.
  aws_polling {
    delay_seconds = 30
    max_attempts  = 240
  }
}

build {
  sources = ["source.amazon-ebs.image"]

  provisioner "file" {
    source      = "${path.root}/install.sh"
    destination = "/tmp/efa-gen-install.sh"
  }

  # From /tmp to where only root can write, and only then compared with what was rendered with this file.
  provisioner "shell" {
    inline = [
      "sudo mkdir -p <~ state_dir ~>",
      "sudo install -o root -g root -m 0755 /tmp/efa-gen-install.sh <~ state_dir ~>/install.sh",
      "echo '<~ script_sha256 ~>  <~ state_dir ~>/install.sh' | sha256sum --check --quiet",
      "rm -f /tmp/efa-gen-install.sh",
    ]
  }
<%- for stage in stages %>

  # [<~ stage.number ~>/<~ stage_count ~>] <~ stage.title | safe ~>
  provisioner "shell" {
    inline            = ["<~ stage.command ~>"]
    expect_disconnect = <~ stage.reboots ~>
    valid_exit_codes  = <~ stage.exit_codes | safe ~>
    skip_clean        = <~ stage.reboots ~>
  }
<%- for reason in stage.barrier %>

  # <~ reason | safe ~>
  provisioner "shell" {
    pause_before        = "10s"
    start_retry_timeout = "15m"
    max_retries         = 10
    inline              = ["sudo /bin/bash <~ state_dir ~>/install.sh --after-reboot"]
  }
<%- endfor %>
<%- endfor %>

<~ on_error | safe ~>  post-processor "manifest" {
    output     = "manifest.json"
    strip_path = true
    custom_data = {
<%- for tag in tags %>
      <~ tag.key | safe ~> = <~ tag.value | safe ~>
<%- endfor %>
    }
  }
}

# <~ title | safe ~>
#
# Made by efa-gen <~ version ~> from plan <~ digest ~>.
# Needs install.sh of the same plan beside it: its SHA-256 is checked on the builder.
#
<%- if newest %>
#   packer init .     once
#   packer build .    (options: packer inspect .)
<%- else %>
#   packer build -var 'ssh_cidrs=["YOUR.ADDRESS/32"]' image.pkr.hcl    (options: packer inspect image.pkr.hcl)
#
# This file leaves out what Packer 1.6 does not know; `efa-gen render --packer 1.7` has it:
<%- for line in left_out %>
# - <~ line | safe ~>
<%- endfor %>
<%- endif %>
#
# `efa-gen build` does what Packer can't: it checks the builder's host key (--host-key), tests the image before anybody gets
# it (--gate), and writes the image's id to a parameter (--ssm-parameter).

packer {
  required_version = ">= <~ required ~>"
}

# Where: the account is that of AWS_PROFILE, or where AWS's own programs look.

variable "region" {
  type        = string
  description = "Region to build in."
  default     = "us-east-1"

  validation {
    condition     = regex_replace(var.region, "^[a-z]+(-[a-z]+)+-[0-9]+$", "") == ""
    error_message = "The region must look like us-east-1."
  }
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

# The builder.

variable "source_ami" {
  type        = string
  description = "Id of the AMI to start from; empty for the newest that the filter finds.<% if common %> Packer before 1.8 finds no deprecated AMIs: then it must be given.<% endif %>"
  default     = ""
}

variable "builder_type" {
  type        = string
  description = "Instance type of the builder. It needs no GPU and no EFA; cores make the build of NCCL faster."
  default     = "c5.4xlarge"
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

<% if newest %>variable "capacity_reservation_id" {
  type        = string
  description = "Capacity reservation to launch the builder in; empty for none."
  default     = ""

  validation {
    condition     = regex_replace(var.capacity_reservation_id, "^cr-[0-9a-f]+$", "") == ""
    error_message = "The reservation must look like cr-0123456789abcdef0."
  }
}

variable "capacity_reservation_group_arn" {
  type        = string
  description = "Group of capacity reservations to launch the builder in; empty for none."
  default     = ""
}

<% endif %>variable "root_gib" {
  type        = number
  description = "Size of the root volume in GiB."
  default     = <~ root_gib ~>

  validation {
    condition     = var.root_gib >= <~ root_gib ~>
    error_message = "The root volume must have <~ root_gib ~> GiB or more."
  }
}

variable "root_iops" {
  type        = number
  description = "Operations a second of the root volume, the builder's and the image's; above 3000 they cost."
  default     = 3000

  validation {
    condition     = var.root_iops >= 3000
    error_message = "A gp3 volume has 3000 or more."
  }
}

variable "root_throughput" {
  type        = number
  description = "MiB a second of the root volume, the builder's and the image's; above 125 they cost."
  default     = 125

  validation {
    condition     = var.root_throughput >= 125
    error_message = "A gp3 volume has 125 or more."
  }
}

variable "iam_instance_profile" {
  type        = string
  description = "Instance profile of the builder; session_manager needs one."
  default     = ""
}

variable "user_data_file" {
  type        = string
  description = "File of user-data for the builder; empty for none. A builder that shuts itself down is terminated."
  default     = ""
}

<% if newest %>variable "hop_limit" {
  type        = number
  description = "How many hops the metadata's answers to the builder may take; 2 for containers on it."
  default     = 1

  validation {
    condition     = var.hop_limit >= 1 && var.hop_limit <= 64
    error_message = "EC2 takes 1 to 64 hops."
  }
}

<% endif %>variable "remote_folder" {
  type        = string
  description = "Folder of the builder for Packer's own scripts; another one where /tmp is mounted noexec."
  default     = "/tmp"

  validation {
    condition     = regex_replace(var.remote_folder, "^(/[0-9A-Za-z._-]+)+$", "") == ""
    error_message = "The folder must look like /var/tmp."
  }
}

# How it is reached.

variable "ssh_interface" {
  type        = string
  description = "How Packer reaches the builder: public_ip, private_ip, public_dns, private_dns or session_manager."
  default     = "public_ip"

  validation {
    condition     = contains(["public_ip", "private_ip", "public_dns", "private_dns", "session_manager"], var.ssh_interface)
    error_message = "The interface must be public_ip, private_ip, public_dns, private_dns or session_manager."
  }
}

variable "associate_public_ip_address" {
  type        = bool
<%- if newest %>
  description = "Whether the builder gets a public address; null for as the subnet says."
  default     = null
<%- else %>
  description = "true: the builder gets a public address, and subnet_id must be given; false: as the subnet says."
  default     = false
<%- endif %>
}

variable "ssh_cidrs" {
  type        = list(string)
<%- if newest %>
  description = "Addresses that may reach the builder by SSH, for example 203.0.113.7/32; empty for the address you call from, which must be a public one: give the private range for ssh_interface = private_ip."
  default     = []
<%- else %>
  description = "Addresses that may reach the builder by SSH, for example 203.0.113.7/32. Required: Packer's default is the whole Internet."
<%- endif %>

  validation {
    condition     = <% if common %>length(var.ssh_cidrs) > 0 && <% endif %>length([for cidr in var.ssh_cidrs : cidr if regex_replace(cidr, "/0*[0-7]$", "") != cidr]) == 0
    error_message = "Name who may connect, in ranges of /8 or smaller: never the whole Internet."
  }
}

variable "security_group_ids" {
  type        = list(string)
  description = "Security groups of yours for the builder; empty for one that Packer makes for ssh_cidrs, and removes."
  default     = []

  validation {
    condition     = length([for group in var.security_group_ids : group if regex_replace("x${group}", "^xsg-[0-9a-f]+$", "") != ""]) == 0
    error_message = "A security group must look like sg-0123456789abcdef0."
  }
}

<% if newest %>variable "key_pair_type" {
  type        = string
  description = "Type of the login key, which Packer makes and removes: ed25519, or rsa where the base AMI is in FIPS mode."
  default     = "ed25519"

  validation {
    condition     = contains(["ed25519", "rsa"], var.key_pair_type)
    error_message = "The key must be ed25519 or rsa."
  }
}

<% endif %>variable "ssh_bastion_host" {
  type        = string
  description = "Bastion between Packer and the builder; empty for none. With one, ssh_interface is private_ip and ssh_cidrs has the bastion's address."
  default     = ""
}

variable "ssh_bastion_port" {
  type        = number
  description = "Port of the bastion."
  default     = 22
}

variable "ssh_bastion_username" {
  type        = string
  description = "Login user of the bastion."
  default     = ""
}

variable "ssh_bastion_private_key_file" {
  type        = string
  description = "Private key for the bastion; empty with ssh_bastion_agent_auth."
  default     = ""
}

variable "ssh_bastion_agent_auth" {
  type        = bool
  description = "Whether your SSH agent has the key for the bastion."
  default     = false
}

# The image.

variable "ami_name" {
  type        = string
  description = "Name of the image; empty for one made of distribution, stack, plan and time."
  default     = ""
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

  validation {
    condition     = regex_replace(var.kms_key_id, "alias/aws/ebs$", "") == var.kms_key_id
    error_message = "Leave the key out for the account's own EBS key."
  }
}

<% if newest %>variable "deprecate_at" {
  type        = string
  description = "When the image is to be deprecated, for example 2030-01-01T00:00:00Z; empty for never."
  default     = ""
}

variable "protect" {
  type        = bool
  description = "Whether the image is protected from being deregistered."
  default     = false
}

<% endif %># Who gets it.

variable "copy_regions" {
  type        = list(string)
  description = "Regions to copy the image to."
  default     = []
}

variable "region_kms_keys" {
  type        = map(string)
  description = "KMS key of yours for each region that the image is copied to; needed when kms_key_id is given, whose key does not leave its region."
  default     = {}

  validation {
    condition     = length([for key in values(var.region_kms_keys) : key if regex_replace(key, "alias/aws/ebs$", "") != key]) == 0
    error_message = "Give a key of yours, or leave the region out for the account's own EBS key."
  }
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

<% if newest %>variable "share_organisations" {
  type        = list(string)
  description = "Organisations whose accounts may launch the image, by ARN."
  default     = []

  validation {
    condition     = length([for arn in var.share_organisations : arn if regex_replace("x${arn}", "^xarn:aws(-cn|-us-gov)?:organizations::[0-9]{12}:organization/o-[0-9a-z]{10,32}$", "") != ""]) == 0
    error_message = "An organisation is given like arn:aws:organizations::111122223333:organization/o-abcdefghij."
  }
}

variable "share_units" {
  type        = list(string)
  description = "Organisational units whose accounts may launch the image, by ARN."
  default     = []

  validation {
    condition     = length([for arn in var.share_units : arn if regex_replace("x${arn}", "^xarn:aws(-cn|-us-gov)?:organizations::[0-9]{12}:ou/o-[0-9a-z]{10,32}/ou-[0-9a-z]{4,32}-[0-9a-z]{8,32}$", "") != ""]) == 0
    error_message = "A unit is given like arn:aws:organizations::111122223333:ou/o-abcdefghij/ou-ab12-34567890."
  }
}

<% endif %># Tags.

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

locals {
  stamp    = formatdate("YYYYMMDD-hhmmss", timestamp())
  ami_name = var.ami_name != "" ? var.ami_name : "<~ ami_name ~>-${local.stamp}"
  plan_tags = {
<%- for tag in tags %>
    <~ tag.key | safe ~> = <~ tag.value | safe ~>
<%- endfor %>
  }
  tags = merge(local.plan_tags, var.more_tags, { for key, run in { "efa-gen:run" = var.run } : key => run if run != "" })

  # What would fail after the whole build. A validation block may look at its own variable alone, so what takes several is
  # refused here: no file has such a name, and Packer's error quotes it.
  shared_with = <% if newest %>concat(var.share_accounts, var.share_organisations, var.share_units)<% else %>var.share_accounts<% endif %>
  without_key = [for region in var.copy_regions : region if var.kms_key_id != "" && lookup(var.region_kms_keys, region, "") == ""]
  refused = [for why, wrong in {
    "the copy to ${join(", ", local.without_key)} has no key in region_kms_keys, and kms_key_id does not leave its region" = length(local.without_key) > 0
    "an image that is encrypted with the account's own EBS key can't be shared, give kms_key_id"                           = length(local.shared_with) > 0 && var.encrypt && var.kms_key_id == ""
<%- if common %>
    "Packer 1.6 gives a public address in a named subnet alone, give subnet_id"                                            = var.associate_public_ip_address && var.subnet_id == ""
<%- endif %>
    "ssh_bastion_host needs ssh_bastion_username"                                                                          = var.ssh_bastion_host != "" && var.ssh_bastion_username == ""
  } : file("REFUSED: ${why}") if wrong]
}

source "amazon-ebs" "image" {
  region                      = var.region
  subnet_id                   = var.subnet_id
  associate_public_ip_address = var.associate_public_ip_address
  security_group_ids          = var.security_group_ids
  instance_type               = var.builder_type
  spot_price                  = var.spot_price
  iam_instance_profile        = var.iam_instance_profile
  user_data_file              = var.user_data_file

  # A builder that is shut down from within does not stay around as a stopped one.
  shutdown_behavior = "terminate"

  ssh_username                          = "<~ base.user ~>"
  ssh_interface                         = var.ssh_interface
  ssh_timeout                           = "15m"
  ssh_pty                               = <~ base.sudo_needs_tty ~>
  ssh_bastion_host                      = var.ssh_bastion_host
  ssh_bastion_port                      = var.ssh_bastion_port
  ssh_bastion_username                  = var.ssh_bastion_username
  ssh_bastion_private_key_file          = var.ssh_bastion_private_key_file
  ssh_bastion_agent_auth                = var.ssh_bastion_agent_auth
  temporary_security_group_source_cidrs = var.ssh_cidrs
<% if newest %>
  temporary_security_group_source_public_ip = length(var.ssh_cidrs) == 0
  temporary_key_pair_type                   = var.key_pair_type

  capacity_reservation_id        = var.capacity_reservation_id
  capacity_reservation_group_arn = var.capacity_reservation_group_arn

  deprecate_at = var.deprecate_at
  deregistration_protection {
    enabled = var.protect
  }
<% if imds_required %>
  # The guest's cloud-init knows IMDSv2, so nothing else is answered: on the builder and on the image's instances.
  imds_support = "v2.0"
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = var.hop_limit
  }
<% else %>
  # This guest's cloud-init may not know IMDSv2; if it were required, it would never read the login key.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "optional"
    http_put_response_hop_limit = var.hop_limit
  }
<% endif %><% endif %>
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
<% if newest %>
    include_deprecated = true
<% endif %>  }

  launch_block_device_mappings {
    device_name           = "<~ base.root_device ~>"
    volume_size           = var.root_gib
    volume_type           = "gp3"
    iops                  = var.root_iops
    throughput            = var.root_throughput
    delete_on_termination = true
  }

  ami_name           = local.ami_name
  ami_description    = "<~ description ~>"
  ami_regions        = var.copy_regions
  ami_users          = var.share_accounts
<%- if newest %>
  ami_org_arns       = var.share_organisations
  ami_ou_arns        = var.share_units
<%- endif %>
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
    destination = "efa-gen-install.sh"
  }

  # From the user's home to where only root can write, and only then compared with what was rendered with this file.
  provisioner "shell" {
    remote_folder = var.remote_folder
    inline = [
      "sudo mkdir -p <~ state_dir ~>",
      "sudo install -o root -g root -m 0600 efa-gen-install.sh <~ state_dir ~>/install.sh",
      "echo '<~ script_sha256 ~>  <~ state_dir ~>/install.sh' | sudo sha256sum --check --quiet",
      "rm -f efa-gen-install.sh",
    ]
  }
<%- for stage in stages %>

  # [<~ stage.number ~>/<~ stage_count ~>] <~ stage.title | safe ~>
  provisioner "shell" {
    remote_folder     = var.remote_folder
    inline            = ["sudo /bin/bash <~ state_dir ~>/install.sh --stage <~ stage.id ~><% if common %> || { code=$?; sudo cat <~ log_dir ~>/install.log; exit $code; }<% endif %>"]
    expect_disconnect = <~ stage.reboots ~>
    valid_exit_codes  = <% if stage.reboots %>[0, 143]<% else %>[0]<% endif %>
    skip_clean        = <~ stage.reboots ~>
  }
<%- if stage.reboots %>

  # Passes on the new boot only; on the old one it is cut off with the connection and tried again.
  provisioner "shell" {
    remote_folder       = var.remote_folder
    pause_before        = "10s"
    start_retry_timeout = "15m"
    max_retries         = 10
    inline              = ["sudo /bin/bash <~ state_dir ~>/install.sh --after-reboot"]
  }
<%- endif %>
<%- endfor %>

<% if newest %>  error-cleanup-provisioner "shell" {
    remote_folder = var.remote_folder
    # Root's alone.
    inline = ["sudo cat /var/log/efa-gen/install.log"]
  }

<% endif %>  post-processor "manifest" {
    output     = "manifest.json"
    strip_path = true
    custom_data = {
<%- for tag in tags %>
      <~ tag.key | safe ~> = <~ tag.value | safe ~>
<%- endfor %>
    }
  }
}

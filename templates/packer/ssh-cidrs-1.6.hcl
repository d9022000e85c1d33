variable "ssh_cidrs" {
  type        = list(string)
  description = "Addresses that may reach the builder by SSH, for example 203.0.113.7/32. Required: Packer's default is the whole Internet."

  validation {
    condition     = length(var.ssh_cidrs) > 0 && contains(var.ssh_cidrs, "0.0.0.0/0") == false && contains(var.ssh_cidrs, "::/0") == false
    error_message = "Name the addresses that may connect: the whole Internet is not one of them."
  }
}

variable "ssh_cidrs" {
  type        = list(string)
  description = "Addresses that may reach the builder by SSH, for example 203.0.113.7/32; empty for the address you call from, which must be a public one: give the private range for ssh_interface = private_ip."
  default     = []

  validation {
    condition     = contains(var.ssh_cidrs, "0.0.0.0/0") == false && contains(var.ssh_cidrs, "::/0") == false
    error_message = "Name the addresses that may connect: the whole Internet is not one of them."
  }
}

variable "deprecate_at" {
  type        = string
  description = "When the image is to be deprecated, for example 2030-01-01T00:00:00Z; empty for never."
  default     = ""
}


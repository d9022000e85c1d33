# For Packer 1.10 and newer, which no longer bring the plugin: run `packer init .` once. Packer 1.6 does not know
# this block; leave the file out there. Plugin 1.3.4 is the first that can protect an image.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.4"
    }
  }
}

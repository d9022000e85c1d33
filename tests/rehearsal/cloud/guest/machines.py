"""Owns which of the cloud's machines are booted guests and which are light hosts, by the image they are made from.
Knows nothing of what either is."""

from collections.abc import Callable

from cloud.guest.guests import Guests
from cloud.guest.hosts import Hosts


class Machines:
    """Guests and light hosts as one: what EC2's instances are behind the API."""

    def __init__(self, guests: Guests, hosts: Hosts) -> None:
        self.guests = guests
        self.hosts = hosts
        self.light_images: set[str] = set()
        self.kinds: dict[str, Guests | Hosts] = {}
        self.new_address = guests.new_address

    @property
    def on_stopped(self) -> Callable[[str], None]:
        return self.guests.on_stopped

    @on_stopped.setter
    def on_stopped(self, told: Callable[[str], None]) -> None:
        self.guests.on_stopped = self.hosts.on_stopped = told

    def add_light_image(self, image: str) -> None:
        """Machines of this image are light hosts."""
        self.light_images.add(image)

    def has_root(self, image: str) -> bool:
        return image in self.light_images or self.guests.has_root(image)

    def create(
        self, instance: str, image: str, address: str, metadata: dict[str, str], user_data: bytes,
        public_key: str | None, files: list[tuple[str, str]],
    ) -> None:
        light = image in self.light_images
        self.kinds[instance] = self.hosts if light else self.guests
        if light:
            self.hosts.create(instance, address, metadata, user_data, public_key, files)
        else:
            self.guests.create(instance, image, address, metadata, user_data, public_key, files)

    def boot(self, instance: str) -> None:
        self.kinds[instance].boot(instance)

    def reboot(self, instance: str) -> None:
        self.kinds[instance].reboot(instance)

    def stop(self, instance: str, force: bool) -> None:
        self.kinds[instance].stop(instance, force)

    def remove(self, instance: str) -> None:
        self.kinds[instance].remove(instance)

    def console(self, instance: str) -> bytes:
        return self.kinds[instance].console(instance)

    def add_address(self, instance: str, address: str) -> None:
        self.kinds[instance].add_address(instance, address)

    def remove_address(self, instance: str, address: str) -> None:
        self.kinds[instance].remove_address(instance, address)

    def keep(self, instance: str, image: str) -> None:
        if self.kinds[instance] is self.hosts:
            raise RuntimeError("a light host is not made into an image")
        self.guests.keep(instance, image)

    def copy_image(self, image: str, copy: str) -> None:
        if image in self.light_images:
            self.light_images.add(copy)
        else:
            self.guests.copy_image(image, copy)

    def drop_image(self, image: str) -> None:
        self.light_images.discard(image)
        self.guests.drop_image(image)

    def remove_all(self) -> bool:
        """Removes every machine; returns whether each could be."""
        return all([self.hosts.remove_all(), self.guests.remove_all()])

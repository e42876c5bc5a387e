"""The profile of a cluster: its nodes and storage, in one form for all systems that can start it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NAME_PATTERN = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
VERSION_PATTERN = re.compile(r"\d+\.\d+\.\d+")
ADDRESS_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?")
TIME_PATTERN = re.compile(r"(\d+-)?\d{1,2}:\d{2}:\d{2}")
# The path of a wheel, a URL with or without `name @`, or an exact version: anything looser would differ between nodes.
PACKAGE_PATTERN = re.compile(r"/\S+\.whl|(\S+ @ )?[a-z+]+://\S+|pruneyard(\[[a-z0-9,]+\])?==\S+")
TOKEN_FILE = "~/.ray/auth_token"  # where Ray looks by itself
LEAST_RAY = (2, 55)


class ProfileError(ValueError):
    """A profile lacks what a format needs; `key` is dotted."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key} {message}")
        self.key, self.message = key, message


_NAMES = "it must consist of small letters, digits and '-', 40 at most, the first one a letter, the last one no '-'"

_PACKAGES = (
    "it must be a URL that pip takes, such as git+https://HOST/pruneyard@COMMIT, "
    "the absolute path of a wheel on the nodes, or pruneyard==VERSION on an index that they use"
)


def _check_node(cpus: int, memory_gib: int, shared_memory_gib: int, gpus: int) -> None:
    for name, value, least in (
        ("cpus", cpus, 1),
        ("memory_gib", memory_gib, 1),
        ("shared_memory_gib", shared_memory_gib, 1),
        ("gpus", gpus, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")
    if shared_memory_gib >= memory_gib:
        raise ValueError(
            f"shared_memory_gib is {shared_memory_gib}; it is part of memory_gib ({memory_gib}), so it must be less"
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head node, which runs Ray's control service and the driver; trials run there only if there are no workers."""

    cpus: int = 4
    memory_gib: int = 16
    shared_memory_gib: int = 4  # of it, for the object store
    gpus: int = 0
    instance_type: str = ""  # of a cloud; its cpus and memory are then what the cloud says

    def __post_init__(self) -> None:
        _check_node(self.cpus, self.memory_gib, self.shared_memory_gib, self.gpus)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """A group of equal worker nodes."""

    count: int
    max_count: int = 0  # scaled up to so many while trials wait; 0 stays at `count`
    cpus: int
    memory_gib: int
    shared_memory_gib: int = 4
    gpus: int = 0
    accelerator: str = ""  # as the system calls the GPU: H100, a100
    spot: bool = False
    instance_type: str = ""
    image: str = ""  # other than the profile's

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}; it must be 0 or more")
        if self.max_count and self.max_count < self.count:
            raise ValueError(f"max_count is {self.max_count}; it must be count ({self.count}) or more, or 0")
        if not self.count and not self.max_count:
            raise ValueError("max_count is 0 and so is count; one of them must be 1 or more")
        if self.accelerator and not self.gpus:
            raise ValueError(f"accelerator is {self.accelerator}, but gpus is 0; give gpus, or leave it out")
        _check_node(self.cpus, self.memory_gib, self.shared_memory_gib, self.gpus)

    @property
    def most(self) -> int:
        """Returns the largest number of nodes."""
        return self.max_count or self.count


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The shared folder of results, mounted at the same path on every node."""

    mount: str = "/shared/pruneyard"
    claim: str = ""  # Kubernetes: a ReadWriteMany volume claim, made beforehand
    nfs: str = ""  # `server:/export`, mounted by nodes of a cloud

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(/[\w.-]+)+", self.mount):
            raise ValueError(
                f"mount is {self.mount}; it must be an absolute path of letters, digits and . _ -"
            )
        if self.nfs and not re.fullmatch(r"[\w.-]+:/[\w./-]*", self.nfs):
            raise ValueError(f"nfs is {self.nfs}; it must have the form server:/export")


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """The namespace of pods; `queue` is the queue of a batch scheduler that admits the cluster as a whole."""

    namespace: str = "default"
    queue: str = ""

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.namespace):
            raise ValueError(f"namespace is {self.namespace}; {_NAMES}")


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """AWS, as `ray up` uses it."""

    region: str = ""
    ssh_user: str = "ubuntu"
    image_id: str = ""  # of the virtual machines; Ray's choice for the region by default


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Existing machines, reached by ssh; the workers must be able to reach the address of the head."""

    head: str = ""
    workers: tuple[str, ...] = ()
    ssh_user: str = ""
    ssh_key: str = "~/.ssh/id_ed25519"

    def __post_init__(self) -> None:
        for name, addresses in (("head", (self.head,) if self.head else ()), ("workers", self.workers)):
            for address in addresses:
                if not ADDRESS_PATTERN.fullmatch(address):
                    raise ValueError(f"{name} is {address}; it must be an address or a host name")
        # All different: the set then has one member more than `workers`. A missing head counts as one, too.
        if len({self.head, *self.workers}) <= len(self.workers):
            raise ValueError("workers names a machine twice, or the head; each may stand there once")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A batch job of whole nodes."""

    time: str = "24:00:00"
    partition: str = ""
    account: str = ""
    prologue: str = ""  # shell lines before anything else that make `pruneyard` known: `source .../activate`

    def __post_init__(self) -> None:
        if not TIME_PATTERN.fullmatch(self.time):
            raise ValueError(f"time is {self.time}; it must have the form HH:MM:SS or D-HH:MM:SS")
        # They are written into #SBATCH lines, where nothing is quoted.
        for name in ("partition", "account"):
            if not re.fullmatch(r"[\w.,-]*", getattr(self, name)):
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must consist of letters, digits and . , _ -"
                )


@dataclass(frozen=True, kw_only=True)
class SkyPilot:
    """The infrastructure to use, and the bucket that is mounted as the results folder."""

    infra: str = ""  # such as aws/us-east-1 or k8s; any by default
    bucket: str = ""  # such as s3://my-bucket; `storage.nfs` is mounted otherwise


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The profile of a cluster. Sizes are per node; memory is in GiB."""

    name: str
    ray: str = "2.60.0"
    image: str = "rayproject/ray:2.60.0-py311-gpu"
    install: bool = (
        True  # nodes install what pruneyard asks for, as it is here; false where the image has all of it
    )
    package: str = (
        ""  # pruneyard itself, where a job is not submitted: a URL for pip, or a wheel's path on the nodes
    )
    head: Head = Head()
    workers: Mapping[str, Workers] = field(default_factory=dict)
    storage: Storage = Storage()
    kubernetes: Kubernetes = Kubernetes()
    cloud: Cloud = Cloud()
    machines: Machines = Machines()
    slurm: Slurm = Slurm()
    skypilot: SkyPilot = SkyPilot()

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(f"name is {self.name}; {_NAMES}")
        if not VERSION_PATTERN.fullmatch(self.ray):
            raise ValueError(f"ray is {self.ray}; it must be a version such as 2.60.0")
        if tuple(map(int, self.ray.split(".")[:2])) < LEAST_RAY:
            raise ValueError(f"ray is {self.ray}; it must be {'.'.join(map(str, LEAST_RAY))} or newer")
        if self.package and not self.install:
            raise ValueError(f"package is {self.package}, but install is false; leave one of them out")
        if self.package and not PACKAGE_PATTERN.fullmatch(self.package):
            raise ValueError(f"package is {self.package}; {_PACKAGES}")
        self._check_image(self.image, "image")
        for name, group in self.workers.items():
            if not NAME_PATTERN.fullmatch(name):
                raise ValueError(f"workers names a group {name}; {_NAMES}")
            if group.image:
                self._check_image(group.image, "workers")

    def _check_image(self, image: str, key: str) -> None:
        """Raises `ValueError` if the version in the tag of a Ray image is not `ray`: all containers need the same Ray."""
        tag = re.search(r"rayproject/ray[\w-]*:(\d+\.\d+\.\d+)", image)
        if tag and tag[1] != self.ray:
            raise ValueError(f"{key} asks for the image {image}, but ray is {self.ray}; the two must agree")

    @property
    def num_nodes(self) -> int:
        """Returns the number of nodes at the start, the head included."""
        return 1 + sum(group.count for group in self.workers.values())

    @property
    def scales(self) -> bool:
        """Returns whether the number of nodes changes with the load."""
        return any(group.most > group.count for group in self.workers.values())

    @property
    def head_cpus(self) -> int:
        """Returns the CPUs that trials may use on the head."""
        return 0 if self.workers else self.head.cpus

    def the_group(self, format_name: str) -> tuple[str, Workers]:
        """Returns the only group of workers, for systems that support just one. Raises `ProfileError` for any other number."""
        if len(self.workers) != 1:
            named = ", ".join(self.workers) or "none"
            raise ProfileError(
                "workers", f"names the groups {named}; {format_name} starts equal nodes, so give exactly one"
            )
        return next(iter(self.workers.items()))

    def need(self, *keys: str, format_name: str) -> None:
        """Raises `ProfileError` for the first of these dotted keys that is empty."""
        for key in keys:
            value: object = self
            for part in key.split("."):
                # `workers.NAME.key` passes through a mapping, every other key through dataclasses.
                value = value[part] if isinstance(value, Mapping) else getattr(value, part)
            if not value:
                raise ProfileError(key, f"is missing; {format_name} needs it")

"""The host's facts, from a made tree of /proc and /sys, and from this machine."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirecut.fabric.host import Nic, free_memory_bytes, number_list, read_host, usable_cores


def write(root: Path, **files: str) -> None:
    """Write files by path; "__" in a name stands for "/"."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def card(root: Path, name: str, **files: str) -> None:
    folder = root / "sys/class/net" / name
    write(folder, **{"type": "1", "operstate": "up", "speed": "-1", **files})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A two-socket host with two kinds of card and a container's limits."""
    write(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nmodel name\t: AMD EPYC 9534 64-Core Processor",
        proc__meminfo="MemTotal:       1048576 kB\nMemFree: 5 kB",
        proc__self__cgroup="0::/jobs/one",
        sys__devices__system__cpu__online="0-7",
        sys__devices__system__node__node0__cpulist="0-3",
        sys__devices__system__node__node1__cpulist="4-7",
        sys__devices__system__node__node3__cpulist="",
    )
    card(tmp_path, "lo", type="772")
    card(tmp_path, "eno1", speed="25000", address="aa:bb:cc:dd:ee:01", device__numa_node="1")
    card(tmp_path, "eno2", speed="-1", operstate="down", device__numa_node="-1")
    card(tmp_path, "bond0", speed="50000", uevent="DEVTYPE=bond")
    card(tmp_path, "veth7", speed="10000")
    card(tmp_path, "ibs1", type="32", speed="400000", device__numa_node="0")
    write(
        tmp_path / "sys/class/infiniband/mlx5_0",
        ports__1__rate="400 Gb/sec (4X NDR)",
        ports__1__state="4: ACTIVE",
        ports__1__link_layer="InfiniBand",
        ports__1__gid_attrs__ndevs__0="ibs1",
        device__numa_node="0",
    )
    write(
        tmp_path / "sys/class/infiniband/rocep1",
        ports__1__rate="25 Gb/sec (1X EDR)",
        ports__1__state="1: DOWN",
        ports__1__link_layer="Ethernet",
        ports__2__rate="garbage",
        device__net__eno1__type="1",
    )
    return tmp_path


def test_cores_nodes_and_memory(root: Path):
    facts = read_host(root, "box")
    assert (facts.host, facts.cpu) == ("box", "AMD EPYC 9534 64-Core Processor")
    assert facts.cores == tuple(range(8))
    assert facts.numa == ((0, 1, 2, 3), (4, 5, 6, 7), (), ())
    assert facts.memory_bytes == facts.total_memory_bytes == 2**30
    assert (facts.cpu_limit, facts.shm_bytes) == (None, None)


def test_cards_and_their_speeds(root: Path):
    cards = {nic.name: nic for nic in read_host(root).nics}
    assert cards["eno1"] == Nic("eno1", "ethernet", 25e9 / 8, True, "aa:bb:cc:dd:ee:01", numa=1)
    assert cards["eno2"] == Nic("eno2", "ethernet", None, False)
    assert cards["bond0"] == Nic("bond0", "ethernet", 50e9 / 8, True, virtual=True)
    assert cards["veth7"] == Nic("veth7", "ethernet", None, True, virtual=True)
    assert (cards["ibs1"].kind, cards["ibs1"].bytes_per_s) == ("infiniband", 50e9)
    assert "lo" not in cards


def test_rdma_ports(root: Path):
    cards = {nic.name: nic for nic in read_host(root).nics}
    assert cards["mlx5_0"] == Nic("mlx5_0", "infiniband", 50e9, True, numa=0, netdev="ibs1")
    assert cards["rocep1:1"] == Nic("rocep1:1", "roce", 25e9 / 8, False, netdev="eno1")
    assert cards["rocep1:2"].bytes_per_s is None


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "536870912", "cpu.max": "150000 100000"},
        {"jobs/one/memory.max": "536870912", "jobs/cpu.max": "150000 100000"},
        {
            "memory/memory.limit_in_bytes": "536870912",
            "cpu/cpu.cfs_quota_us": "150000",
            "cpu/cpu.cfs_period_us": "100000",
        },
    ],
)
def test_limits_of_a_cgroup_and_of_those_above_it(root: Path, files: dict[str, str]):
    base = root / "sys/fs/cgroup"
    write(base, **{"jobs/one/cpu.max": "max 100000", "jobs/one/memory.max": "max", **files})
    facts = read_host(root)
    assert facts.memory_bytes == 2**29
    assert facts.total_memory_bytes == 2**30
    assert facts.cpu_limit == 1.5


def test_version_1_names_its_groups_by_controller(root: Path):
    write(root, proc__self__cgroup="4:memory:/deep/er\n2:cpu,cpuacct:/deep")
    write(root / "sys/fs/cgroup/memory/deep/er", **{"memory.limit_in_bytes": "1048576"})
    write(root / "sys/fs/cgroup/cpu/deep", **{"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "5"})
    facts = read_host(root)
    assert (facts.memory_bytes, facts.cpu_limit) == (2**20, None)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 600),
        ({"memory.max": "500 MiB", "memory.current": "450 MiB", "memory.stat": "250"}, 300),
        ({"jobs/one/memory.max": "100 MiB", "jobs/one/memory.current": "400 MiB"}, 0),
        ({"memory.max": "2000 MiB", "memory.current": "50 MiB"}, 600),
        (
            {
                "memory/memory.limit_in_bytes": "500 MiB",
                "memory/memory.usage_in_bytes": "450 MiB",
                "memory/memory.stat": "10 250",
            },
            300,
        ),
    ],
)
def test_free_memory_is_what_the_host_and_the_cgroups_leave(
    root: Path, files: dict[str, str], free: int
):
    """MiB. What is kept of files is free; version 1 tells it for a group, then with those below."""

    def told(name: str, text: str) -> str:
        if not name.endswith("stat"):
            return str(int(text.removesuffix(" MiB")) * 2**20)
        own, *total = (int(number) * 2**20 for number in text.split())
        lines = [f"anon 1\ninactive_file {own // 2}\nactive_file {own - own // 2}"]
        lines += [f"total_inactive_file {each}\ntotal_active_file 0" for each in total]
        return "\n".join(lines)

    write(root, proc__meminfo=f"MemTotal: 1048576 kB\nMemAvailable: {600 * 1024} kB")
    write(root / "sys/fs/cgroup", **{name: told(name, text) for name, text in files.items()})
    assert free_memory_bytes(root) == free * 2**20


def test_an_empty_tree_is_a_host_of_which_nothing_is_known(tmp_path: Path):
    facts = read_host(tmp_path, "nothing")
    assert (facts.cores, facts.memory_bytes, facts.nics, facts.numa) == ((), 0, (), ())
    assert free_memory_bytes(tmp_path) is None


def test_this_host():
    facts = read_host()
    assert facts.cores == tuple(usable_cores())
    assert 0 < facts.memory_bytes <= (facts.total_memory_bytes or 0)
    assert 0 < (free_memory_bytes() or 0) < facts.memory_bytes
    status = os.statvfs("/dev/shm")
    assert facts.shm_bytes == status.f_blocks * status.f_frsize
    assert set(facts.cores) <= {core for node in facts.numa for core in node}


def test_lists_of_numbers():
    assert number_list("0-2,8") == (0, 1, 2, 8)
    assert number_list("0-999999") == number_list("3-1") == number_list("N/A") == ()


@given(st.text(alphabet="0123456789-, \n\u0663", max_size=20))
def test_no_list_of_numbers_crashes_or_grows_without_bound(text: str):
    assert len(number_list(text)) <= 1 << 16


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "proc/cpuinfo",
                "proc/meminfo",
                "proc/self/cgroup",
                "sys/fs/cgroup/cpu.max",
                "sys/fs/cgroup/memory.max",
                "sys/devices/system/node/node0/cpulist",
                "sys/class/net/eth0/speed",
                "sys/class/net/eth0/type",
                "sys/class/infiniband/mlx5_0/ports/1/rate",
            ]
        ),
        st.binary(max_size=40)
        | st.sampled_from([b"1", b"MemTotal: 5 kB", b"4:cpu:/../..", b"0::"]),
    )
)
def test_no_file_crashes_it(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]):
    root = tmp_path_factory.mktemp("root")
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    assert read_host(root, "any").memory_bytes >= 0

"""Access control lists, extended attributes and times through the mount, with the tools people use."""

import ctypes
import errno
import os
import stat
import subprocess
import time

from harness import Skip, main, wait_until

ALICE, BOB, GROUP = 1001, 1002, 2001


def errno_of(call, *args):
    try:
        call(*args)
    except OSError as why:
        return why.errno
    return 0


def as_user(uid, groups, call):
    """Runs call() in a child with these ids; its errno, or 0."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            code = errno_of(call)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tool(*argv, code=0):
    try:
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
    except FileNotFoundError as why:
        raise Skip(f'{argv[0]} is not installed') from why
    assert done.returncode == code, (argv, done)
    return done.stdout


def mounted(c, name='mnt'):
    c.dir.chmod(0o755)  # so that others than root come to the mount
    return c.mount(name)


def acl_of(path, *options):
    return [' '.join(line.split()) for line in tool('getfacl', '--omit-header', '--numeric', '--absolute-names', *options, path).split('\n') if line]


def setfacl_and_getfacl_agree_and_are_obeyed(c):
    m = mounted(c)
    (m / 'acl').mkdir()
    (m / 'acl').chmod(0o755)
    path = m / 'acl/f'
    path.write_text('text')
    path.chmod(0o640)
    read = lambda: path.read_text() and None
    write = lambda: open(path, 'r+').close()
    assert as_user(ALICE, [], read) == errno.EACCES
    tool('setfacl', '-m', f'u:{ALICE}:rw,g:{GROUP}:r', path)
    assert acl_of(path) == ['user::rw-', f'user:{ALICE}:rw-', 'group::r--', f'group:{GROUP}:r--', 'mask::rw-', 'other::---']
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert as_user(ALICE, [], read) == 0 and as_user(ALICE, [], write) == 0
    assert as_user(BOB, [GROUP], read) == 0 and as_user(BOB, [GROUP], write) == errno.EACCES
    assert as_user(BOB, [], read) == errno.EACCES
    path.chmod(0o640)
    assert 'mask::r--' in acl_of(path) and f'user:{ALICE}:rw- #effective:r--' in acl_of(path)
    assert as_user(ALICE, [], write) == errno.EACCES
    assert as_user(BOB, [], lambda: subprocess.run(['setfacl', '-b', path], check=True, stderr=subprocess.DEVNULL)) != 0
    tool('setfacl', '-b', path)
    assert acl_of(path) == ['user::rw-', 'group::r--', 'other::---']
    c.umount(m)


def default_lists_are_inherited_and_replace_the_umask(c):
    m = mounted(c)
    old = os.umask(0o027)
    try:
        (m / 'dacl').mkdir()
        (m / 'dacl/plain').write_text('x')
        assert stat.S_IMODE((m / 'dacl/plain').stat().st_mode) == 0o640  # the umask, applied by the service
        tool('setfacl', '-d', '-m', f'u:{ALICE}:rwx,g::rx,o::rx', m / 'dacl')
        (m / 'dacl/sub').mkdir()
        (m / 'dacl/sub/f').write_text('x')
        assert stat.S_IMODE((m / 'dacl/sub/f').stat().st_mode) == 0o664
        assert f'default:user:{ALICE}:rwx' in acl_of(m / 'dacl/sub')
        assert f'user:{ALICE}:rwx #effective:rw-' in acl_of(m / 'dacl/sub/f')
        tool('setfacl', '-k', m / 'dacl/sub')
        (m / 'dacl/sub/g').write_text('x')
        assert stat.S_IMODE((m / 'dacl/sub/g').stat().st_mode) == 0o640
    finally:
        os.umask(old)
    c.umount(m)


def copies_keep_lists_and_other_doors_obey_them(c):
    m = mounted(c)
    (m / 'bk').mkdir()
    path = m / 'bk/f'
    path.write_text('x')
    tool('setfacl', '-m', f'u:{ALICE}:rw', path)
    tool('cp', '--preserve=all', path, m / 'bk/copy')
    assert acl_of(m / 'bk/copy') == acl_of(path)
    other = mounted(c, 'second')  # another mount sees and obeys the same list at once
    assert acl_of(other / 'bk/f') == acl_of(path)
    tool('setfacl', '-x', f'u:{ALICE}', path)
    tool('setfacl', '-x', 'm::', path)
    path.chmod(0o600)
    assert as_user(ALICE, [], lambda: (other / 'bk/f').read_text() and None) == errno.EACCES
    c.umount(other)
    c.umount(m)


def attributes_have_their_namespaces(c):
    m = mounted(c)
    path = m / 'xattr'
    path.write_text('x')
    path.chmod(0o666)
    os.setxattr(path, 'user.k', b'v')
    os.setxattr(path, 'trusted.t', b'w')
    assert sorted(os.listxattr(path)) == ['trusted.t', 'user.k']
    assert as_user(ALICE, [], lambda: os.getxattr(path, 'user.k') and None) == 0
    assert as_user(ALICE, [], lambda: os.getxattr(path, 'trusted.t')) == errno.ENODATA
    assert as_user(ALICE, [], lambda: os.setxattr(path, 'trusted.t', b'x')) == errno.EPERM
    assert errno_of(os.setxattr, path, 'user.k', b'w', os.XATTR_CREATE) == errno.EEXIST
    assert errno_of(os.setxattr, path, 'user.none', b'w', os.XATTR_REPLACE) == errno.ENODATA
    assert errno_of(os.setxattr, path, 'user.big', bytes(65537)) == errno.E2BIG
    assert errno_of(os.setxattr, path, 'strange.k', b'w') == errno.EOPNOTSUPP
    os.setxattr(path, 'security.capability', bytes.fromhex('0100000200000000000000000000000000000000'))
    with open(path, 'r+') as f:
        f.write('changed')
    assert errno_of(os.getxattr, path, 'security.capability') == errno.ENODATA
    c.umount(m)


def reads_move_the_atime_by_relatime(c):
    m = mounted(c)
    path = m / 'read'
    path.write_text('text')
    os.utime(path, ns=(1, 2))
    path.read_text()
    wait_until(lambda: path.stat().st_atime_ns > 2, 'the mark that the kernel lets the mount make after close(2)')
    first = path.stat().st_atime_ns
    assert path.stat().st_mtime_ns == 2
    path.read_text()
    assert path.stat().st_atime_ns == first  # it is after the last change, and not a day old
    day = 24 * 3600 * 10**9
    os.utime(path, ns=(time.time_ns() - 2 * day, time.time_ns() - 3 * day))
    c.umount(m)
    done = c.tarn('mount', '--options', 'noatime', str(m))
    assert done.code == 0, done
    c.mounts.append(m)
    before = path.stat().st_atime_ns
    path.read_text()
    assert path.stat().st_atime_ns == before
    c.umount(m)
    assert c.tarn('mount', '--options', 'nonsense', str(m)).code == 2


class Directory:
    """opendir(3) and its kind, which Python does not have."""

    class Entry(ctypes.Structure):
        _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('reclen', ctypes.c_ushort), ('type', ctypes.c_ubyte),
                    ('name', ctypes.c_char * 256)]

    def __init__(self, path):
        self.libc = ctypes.CDLL(None, use_errno=True)
        for name, result, args in (('opendir', ctypes.c_void_p, [ctypes.c_char_p]), ('telldir', ctypes.c_long, [ctypes.c_void_p]),
                                   ('readdir', ctypes.POINTER(self.Entry), [ctypes.c_void_p]), ('closedir', ctypes.c_int, [ctypes.c_void_p]),
                                   ('seekdir', None, [ctypes.c_void_p, ctypes.c_long]), ('rewinddir', None, [ctypes.c_void_p])):
            call = getattr(self.libc, name)
            call.restype, call.argtypes = result, args
        self.handle = self.libc.opendir(os.fsencode(path))
        assert self.handle

    def read(self):
        entry = self.libc.readdir(self.handle)
        return entry.contents.name.decode() if entry else None

    def rest(self):
        return list(iter(self.read, None))

    def tell(self):
        return self.libc.telldir(self.handle)

    def seek(self, cookie):
        self.libc.seekdir(self.handle, cookie)

    def rewind(self):
        self.libc.rewinddir(self.handle)

    def close(self):
        self.libc.closedir(self.handle)


def places_in_a_directory_survive_changes(c):
    m = mounted(c)
    (m / 'many').mkdir()
    names = [f'entry-{i:05}' for i in range(5000)]
    for name in names:
        (m / 'many' / name).touch()
    listing = Directory(m / 'many')
    places, order = {}, []
    while (name := listing.read()) is not None:
        order.append(name)
        places[name] = listing.tell()
    assert sorted(order) == ['.', '..'] + names and len(set(places.values())) == len(order)
    gone = set(names[i] for i in range(0, 5000, 3))
    for name in gone:  # entries with a told place among them
        (m / 'many' / name).unlink()
    for i in range(0, 5000, 7):
        (m / 'many' / f'entry-{i:05}-new').touch()
    stay = [name for name in order if name not in gone]
    for at in (4999, 0, 2, 1, 1024, 1025, 1026, 3333, 2500, 77):
        listing.seek(places[order[at]])
        rest = [name for name in listing.rest() if not name.endswith('-new')]
        assert rest == [name for name in order[at + 1:] if name not in gone], at
    listing.rewind()
    rest = listing.rest()
    assert sorted(name for name in rest if not name.endswith('-new')) == sorted(stay)
    assert sorted(rest) == sorted(os.listdir(m / 'many') + ['.', '..'])
    listing.close()
    c.umount(m)


if __name__ == '__main__':
    main([setfacl_and_getfacl_agree_and_are_obeyed, default_lists_are_inherited_and_replace_the_umask,
          copies_keep_lists_and_other_doors_obey_them, attributes_have_their_namespaces, reads_move_the_atime_by_relatime,
          places_in_a_directory_survive_changes], nodes=1)

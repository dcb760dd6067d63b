"""A flame graph of what `perf record -g` recorded, as one SVG file without scripts; names are shown by the
pointer. flame.py PERF_DATA TITLE > OUT.svg"""

import subprocess
import sys
from html import escape

WIDTH, ROW, LEAST = 1200, 16, 0.0015  # a frame narrower than this share is left out


def stacks(path):
    """[frames from the outside in] of each sample."""
    text = subprocess.run(['perf', 'script', '-i', path, '-F', 'comm,ip,sym'], capture_output=True, text=True, check=True).stdout
    for block in text.split('\n\n'):
        lines = block.strip().splitlines()
        names = [line.split(None, 1)[1] if len(line.split(None, 1)) > 1 else '[unknown]' for line in lines[1:]]
        if names:
            yield [lines[0].strip()] + list(reversed(names))


def tree(path):
    root = [0, {}]
    for stack in stacks(path):
        node = root
        node[0] += 1
        for name in stack:
            node = node[1].setdefault(name, [0, {}])
            node[0] += 1
    return root


def draw(node, name, x, depth, total, out):
    share = node[0] / total
    if share < LEAST:
        return depth
    hue = 20 + sum(map(ord, name)) % 35
    w = share * WIDTH
    text = escape(name[:int(w / 6.5)]) if w > 30 else ''
    out.append(f'<g><title>{escape(name)} {share:.1%}</title><rect x="{x:.1f}" y="{{y{depth}}}" width="{max(w - 0.4, 0.3):.1f}" '
               f'height="{ROW - 1}" fill="hsl({hue},80%,65%)"/><text x="{x + 2:.1f}" y="{{t{depth}}}">{text}</text></g>')
    deepest = depth
    for child, below in sorted(node[1].items()):
        deepest = max(deepest, draw(below, child, x, depth + 1, total, out))
        x += below[0] / total * WIDTH
    return deepest


def main(path, title):
    sys.setrecursionlimit(10000)
    root, out = tree(path), []
    depth = draw(root, 'all', 0, 0, root[0], out)
    height = (depth + 3) * ROW
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">')
    print(f'<rect width="100%" height="100%" fill="#fff"/><text x="4" y="12">{escape(title)}: {root[0]} samples</text>')
    for line in out:
        i = line.index('{y') + 2
        d = int(line[i:line.index('}', i)])
        y = height - (d + 1) * ROW
        print(line.replace(f'{{y{d}}}', str(y)).replace(f'{{t{d}}}', str(y + 12)))
    print('</svg>')


main(*sys.argv[1:])

import json
import sys

from . import top

json.dump(dict(top(sys.stdin.read())), sys.stdout, ensure_ascii=False)
print()

"""What importing plesio costs: no torch, until a torch thing is touched."""

import subprocess
import sys


def test_importing_plesio_and_its_help_load_no_torch() -> None:
    code = "import plesio, plesio.cli.main, plesio.testing, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

"""`python envelope.py COMMAND…`: each line that the command writes as the notification that the bridge sends. For websocketd, which knows none."""
import json
import subprocess
import sys

if __name__ == "__main__":
    with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE) as process:
        for seq, line in enumerate(process.stdout, 1):
            params = {"process_id": "1", "type": "stdout", "seq": seq, "data": line.decode("utf-8", "replace")}
            print(json.dumps({"jsonrpc": "2.0", "method": "process.output", "params": params}), flush=True)

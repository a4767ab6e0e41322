"""A stand-in for the part of W&B's service that `wandb agent` asks what to run."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789abcdef" * 2 + "01234567"


class SweepService:
    """Serves one sweep on this machine, and hands out its runs one after another.

    Args:
        config: the sweep, as YAML.
        runs: the values that it chooses, by the id of each run.
    """

    def __init__(self, config, runs):
        self._config, self._waiting, self.unknown = config, list(runs.items()), []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                size = int(self.headers["Content-Length"])
                answer = service.answer(json.loads(self.rfile.read(size)))
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def variables(self):
        """Environment variables of the agent."""
        port = self._server.server_address[1]
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": KEY}

    def answer(self, request):
        """Return the answer to a query in GraphQL."""
        query = request["query"]
        if "SweepWithRuns" in query:
            sweep = {"id": "s", "name": "swept", "config": self._config, "runs": {"edges": []}}
            return {"data": {"project": {"sweep": sweep}}}
        if "createAgent" in query:
            return {"data": {"createAgent": {"agent": {"id": "agent"}}}}
        if "agentHeartbeat" in query:
            commands = self._commands(json.loads(request["variables"]["runState"]))
            beat = {"agent": {"id": "agent"}, "commands": json.dumps(commands)}
            return {"data": {"agentHeartbeat": beat}}
        if "viewer" in query:
            viewer = {"id": "u", "entity": "somebody", "username": "somebody", "flags": "{}"}
            return {"data": {"viewer": viewer | {"teams": {"edges": []}}}}
        self.unknown.append(query)
        return {"errors": [{"message": "this stand-in does not know the query"}]}

    def _commands(self, running):
        if running:
            return []
        if not self._waiting:
            return [{"type": "exit"}]
        name, values = self._waiting.pop(0)
        args = {key: {"value": value} for key, value in values.items()}
        return [{"type": "run", "run_id": name, "args": args, "program": "train"}]

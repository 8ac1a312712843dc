"""A rollout server in miniature, for tests of what comes after the rollouts: python worker_answers.py PORT

Answers every prompt by one of three places, chosen by the seed, so that samples of a question differ and there is a
vote. No model, no weights: nothing can be synced to it.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = Tokenizer.from_file(str(ROOT / "nopsd" / "lab" / "model" / "tokenizer.json"))
STATES = {
    "/health": {},
    "/v1/models": {"data": [{"id": "policy", "max_model_len": 4096}]},
    "/weight_info": {"weight_version": "default"},
    "/metrics": {},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(STATES[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        choices = []
        for index in range(body["n"]):
            text = f"It is at \\boxed{{{'two' if (body['seed'] + index) % 3 else 'five'}}}."
            ids = TOKENIZER.encode(text, add_special_tokens=False).ids
            choices.append(
                {
                    "index": index,
                    "text": text,
                    "token_ids": ids,
                    "prompt_token_ids": body["prompt"],
                    "finish_reason": "stop",
                }
            )
        self.answer({"choices": choices})

    def answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("up", flush=True)
    server.serve_forever()


main()

-- One body, from a file, again and again.
local file = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.headers["Content-Type"] = os.getenv("KIND")
wrk.body = file:read("*a")
file:close()

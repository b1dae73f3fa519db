-- Posts 1 KiB of JSON. Usage: wrk -s post.lua URL

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"query":"' .. string.rep("x", 1024 - 12) .. '"}'

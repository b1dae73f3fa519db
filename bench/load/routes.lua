-- Asks for the routes of countersign/routes.toml in turn, in an order that no cache can guess.
-- Usage: wrk -s routes.lua URL -- NUMBER_OF_ROUTES

local requests = {}
local at = 0

function init(args)
  local routes = tonumber(args[1])
  for number = 0, routes - 1 do
    requests[number + 1] = wrk.format("GET", string.format("/plant/line-%05d/state", number))
  end
  math.randomseed(1)
  for last = routes, 2, -1 do
    local other = math.random(last)
    requests[last], requests[other] = requests[other], requests[last]
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
